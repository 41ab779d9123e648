"""What several Routers that share slots and money would lose against one."""
