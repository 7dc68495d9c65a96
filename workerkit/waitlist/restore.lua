-- Let quarantined tickets go again: they are published at once, and the limit decides where they are executed.
--
-- KEYS: see state. ARGV: not after; ids.
-- Returns how many there were.

-- include: not_after
-- include: state
local found = 0
for n = 2, #ARGV do
  local id = ARGV[n]
  local i = info_of(id)
  if i and redis.call('HDEL', quarantine, id) == 1 then
    i.sent = 0
    note(id, i)
    redis.call('ZADD', out, us(now_us), id)
    found = found + 1
  end
end
if found > 0 then
  keep_all()
end
return found
