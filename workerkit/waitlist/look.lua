-- Which lines are to be looked at now, and which tickets are to be published whatever their line says: expired ones,
-- cancelled ones, and those that nobody has entered by. For a moment no other pump is told of the same lines.
--
-- KEYS: see state. ARGV: not after; how many of each; that moment in us.
-- Returns {us until there is more to do (-1: nothing is parked), {line, what it waits for, ...}, {id, line, ...}}.

-- include: not_after
-- include: state
local most, found, overdue = ARGV[2], {}, {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', us(now_us), 'LIMIT', 0, most)) do
  local what = redis.call('HGET', lines, name)
  if what then
    found[#found + 1] = name
    found[#found + 1] = what
    redis.call('ZADD', due, us(now_us + ARGV[3]), name)
  else
    redis.call('ZREM', due, name)
  end
end
local soonest
for _, list in ipairs({ expiring, out }) do
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', list, '-inf', us(now_us), 'LIMIT', 0, most)) do
    local i = info_of(id)
    if i then
      overdue[#overdue + 1] = id
      overdue[#overdue + 1] = i.line
    else
      redis.call('ZREM', list, id)
    end
  end
end
for _, list in ipairs({ due, expiring, out }) do
  local first = tonumber(redis.call('ZRANGE', list, 0, 0, 'WITHSCORES')[2])
  soonest = first and math.min(soonest or first, first) or soonest
end
local left = redis.call('PTTL', tickets) -- of quarantined ones too
if left >= 0 and left < LIFE - 3600000 then
  keep_all()
end
return { soonest and us(math.max(0, soonest - now_us)) or '-1', found, overdue }
