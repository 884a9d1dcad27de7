"""The search methods, a module each: the module's name is the method's name on the command line."""
