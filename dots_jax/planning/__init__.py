"""What a run will do, computed from its config alone: nothing here loads TensorFlow or touches a device."""
