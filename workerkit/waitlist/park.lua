-- Park a task: its next generation waits for its turn, which a virtual clock spreads at the limit's rate.
-- KEYS[1] the task's record   KEYS[2] due times   KEYS[3] tickets   KEYS[4] virtual clock of this limiter and key
-- ARGV[1] not after   ARGV[2] ticket id   ARGV[3] new generation   ARGV[4] the ticket   ARGV[5] wait in us
-- ARGV[6] us between two turns   ARGV[7] life in ms
-- returns the due time in us; the same again for a repeated park of one generation
-- include: not_after
local gen = tonumber(ARGV[3])
local known = tonumber(redis.call('HGET', KEYS[1], 'gen') or -1)
if known >= gen then
  return redis.call('ZSCORE', KEYS[2], ARGV[2]) or string.format('%.0f', now_us)
end
local due = math.max(now_us + tonumber(ARGV[5]), tonumber(redis.call('GET', KEYS[4]) or 0))
local life = ARGV[7]
local score = string.format('%.0f', due)
redis.call('SET', KEYS[4], string.format('%.0f', due + tonumber(ARGV[6])), 'PX', life)
redis.call('HSET', KEYS[1], 'gen', gen, 'pub', '')
redis.call('PEXPIRE', KEYS[1], life)
redis.call('HSET', KEYS[3], ARGV[2], ARGV[4])
redis.call('PEXPIRE', KEYS[3], life)
redis.call('ZADD', KEYS[2], score, ARGV[2])
redis.call('PEXPIRE', KEYS[2], life)
return score
