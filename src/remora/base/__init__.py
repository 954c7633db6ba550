"""What every other layer may use: ids, errors, configuration, resources."""
