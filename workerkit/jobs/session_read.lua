-- Look at a session without using it.
-- KEYS[1] the record
-- returns {ms left, {name, value, ...}} | nil when there is none
-- include: now
local expires = redis.call('HGET', KEYS[1], 'expires')
if not expires or tonumber(expires) <= now_us then
  return false
end
return {redis.call('PTTL', KEYS[1]), redis.call('HGETALL', KEYS[1])}
