"""Runners own tasks, timers and sockets, on asyncio and on trio."""
