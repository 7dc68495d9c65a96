-- KEYS[1] the record
-- returns {now, {name, value, ...}} | nil when there is none
-- include: now
local found = redis.call('HGETALL', KEYS[1])
return #found > 0 and {now_us, found} or false
