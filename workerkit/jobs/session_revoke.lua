-- End a session if it is the one that is meant.
-- KEYS[1] the record   ARGV[1] digest or owner   ARGV[2] what that must be
-- returns its owner, or '' | nil when there is no such session
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return false
end
local owner = redis.call('HGET', KEYS[1], 'owner')
redis.call('DEL', KEYS[1])
return owner or ''
