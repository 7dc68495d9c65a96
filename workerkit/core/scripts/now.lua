-- now_us: the server's time in microseconds since 1970; an integer that a double holds exactly until the year 2255.
local clock = redis.call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
