"""Runners own tasks, timers, sockets: on asyncio, and most of them on trio."""
