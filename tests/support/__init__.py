"""What tests share: data and runs that are made once, processes that start warm, and the account of what all costs."""
