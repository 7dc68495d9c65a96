-- KEYS[1]: a counter. Counts one and answers the count, unless the caller has given up; an INCR that must not run twice.
-- include: not_after
local count = redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], 600000)
return count
