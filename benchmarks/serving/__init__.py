"""Our service beside other servers: the command, the servers, their ratios and the report."""
