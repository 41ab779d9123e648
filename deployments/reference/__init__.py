"""The reference pages of docs/reference, made from the configuration's fields and from the commands themselves."""
