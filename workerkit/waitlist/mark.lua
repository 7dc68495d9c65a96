-- Cancel parked tasks: the next pump publishes them so that they are revoked.
--
-- KEYS: see state. ARGV: not after; task ids.
-- Returns how many were parked.

-- include: not_after
-- include: state
local found = 0
for n = 2, #ARGV do
  local id = redis.call('HGET', ids, ARGV[n])
  local i = id and info_of(id)
  if i then
    found = found + 1
    if redis.call('HEXISTS', quarantine, id) == 1 then
      forget(id, i) -- no worker could be told of it
    elseif i.cancelled == '0' then
      i.cancelled, i.sent = 1, 0
      note(id, i)
      redis.call('ZADD', expiring, 0, id)
    end
  end
end
if found > 0 then
  keep_all()
end
return found
