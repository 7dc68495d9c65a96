-- Give a waiting ticket another priority, at the front of those who have it.
--
-- KEYS: see state. ARGV: not after; id; 9 - priority.
-- Returns 1, or 0 when it does not wait (any more).

-- include: not_after
-- include: state
local id = ARGV[2]
local i = info_of(id)
if not i or not redis.call('ZSCORE', waiting, id) then
  return 0
end
local base = ARGV[3] * 2 ^ 48
local first = redis.call('ZRANGEBYSCORE', waiting, us(base), us(base + 2 ^ 48 - 1), 'WITHSCORES', 'LIMIT', 0, 1)[2]
i.score = us(math.max(base, (first or redis.call('HGET', line, 'v' .. ARGV[3]) or base) - 1))
note(id, i)
redis.call('HSET', record, 'score', i.score)
redis.call('PEXPIRE', record, LIFE)
redis.call('ZADD', waiting, i.score, id)
return 1
