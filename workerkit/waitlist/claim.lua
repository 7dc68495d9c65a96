-- Take the tickets of one line whose turn has come. As many go as the limit has room for, without those that are on
-- their way already. While those lie in a long queue and the limit is not used, whoever is due at its own rate goes too.
--
-- KEYS: see state. ARGV: not after; the line; how many the limit has room for (-1: nobody knows); us until it has room;
-- 1 where there is a rate at which it has; how many at most; us after which the line is looked at again in any case; how
-- many us ahead of now the room is counted.
-- Returns {us until the line is to be looked at again (-1: nobody waits in it any more), how far ahead its room should be
-- counted then, id, ticket, ...}.

-- include: not_after
-- include: state
local name, room, wait, paced = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == '1'
local most, again, ahead = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local STUCK, UNUSED, SLACK, CATCH_UP, LEAD = 500000, 200000, 100000, 1000000, 50000
local last = redis.call('HMGET', line, 'turn', 'pace', 'lag', 'unused')
local turn, pace, lag, unused = tonumber(last[1] or 0), tonumber(last[2] or 0), tonumber(last[3] or 0), last[4]
local first = info_of(redis.call('ZRANGE', waiting, 0, 0)[1] or '')
local free, every = 0, first and first.every or 50000
-- On their way for longer than this, they are in a queue that nobody reads, or lost.
local gone = us(now_us - math.max(5000000, 2 * lag))
if room >= 0 then
  turn = now_us + math.max(0, wait - ahead)
  -- A crowd on its way would hold up whatever else is in its queue.
  local crowd = math.max(32, 100000 / every)
  free = math.max(0, math.min(room, crowd) - redis.call('ZCOUNT', flights, gone, '+inf'))
  if room - ahead / every < 1 then
    unused = nil
    redis.call('HDEL', line, 'unused')
  elseif not unused then
    unused = now_us
    redis.call('HSET', line, 'unused', us(now_us))
  end
  paced = paced and unused and now_us - unused > UNUSED
    and redis.call('ZCOUNT', flights, gone, '(' .. us(now_us - STUCK)) > 0
  pace = math.max(pace, now_us - SLACK)
else
  pace = math.max(pace, turn, now_us - CATCH_UP)
end
-- A message may go as long before there is room for it as it takes to come to its worker: what comes too early, by less
-- than `sleep_under`, waits where it is.
local answer = { '-1', us(ARGV[5] == '1' and math.min(lag, LEAD) or 0) }
if turn <= now_us then
  for _, id in ipairs(redis.call('ZRANGE', waiting, 0, most - 1)) do
    if free <= 0 and not (paced and pace <= now_us) then
      break
    end
    local i, ticket = info_of(id), redis.call('HGET', tickets, id)
    redis.call('ZREM', waiting, id)
    if i and ticket then
      free, every, pace = free - 1, i.every, pace + i.every
      -- Not back to who returns with the place that he had: others would go before those who wait.
      local score, served = tonumber(i.score), 'v' .. math.floor(tonumber(i.score) / 2 ^ 48)
      redis.call('HSET', line, served, us(math.max(score, tonumber(redis.call('HGET', line, served) or 0))))
      published(id, i, lag)
      redis.call('ZADD', flights, us(now_us), id)
      answer[#answer + 1] = id
      answer[#answer + 1] = ticket
    end
  end
end
redis.call('HSET', line, 'turn', us(turn), 'pace', us(pace))
local life = 3600000 -- while nobody waits
if redis.call('ZCARD', waiting) == 0 then
  redis.call('ZREM', due, name)
  redis.call('HDEL', lines, name)
else
  local next_look
  if turn > now_us then
    next_look = room >= 0 and math.min(turn, now_us + again) or turn
  elseif room < 0 then
    next_look = pace
  else
    next_look = now_us + math.max(5000, math.min(every, 50000))
  end
  redis.call('ZADD', due, us(next_look), name)
  answer[1], life = us(math.max(0, next_look - now_us)), LIFE
end
if #answer > 2 then
  keep_all()
end
for _, key in ipairs({ line, waiting, flights, tags }) do
  redis.call('PEXPIRE', key, life)
end
return answer
