"""The kinds of files and objects that points are read from: a module for each family."""
