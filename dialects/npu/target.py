def target_of(op):
    return None
