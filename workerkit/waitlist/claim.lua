-- Take tickets whose turn has come. They stay, due again later, until a delivery of them has entered.
-- KEYS[1] due times   KEYS[2] tickets
-- ARGV[1] not after   ARGV[2] how many at most   ARGV[3] us until an unentered one is due again
-- returns {us until the next is due (-1: none waits), id, ticket, id, ticket, ...}
-- include: not_after
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now_us), 'LIMIT', 0, ARGV[2])
local answer = {-1}
for _, id in ipairs(ids) do
  local ticket = redis.call('HGET', KEYS[2], id)
  if ticket then
    redis.call('ZADD', KEYS[1], string.format('%.0f', now_us + tonumber(ARGV[3])), id)
    answer[#answer + 1] = id
    answer[#answer + 1] = ticket
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[2] then
  answer[1] = math.max(0, tonumber(first[2]) - now_us)
end
return answer
