-- Park a task: its next generation waits in the line of its limiter and key, behind those of its priority that come
-- first by start-time fair queueing (Goyal, Vin, Cheng 1996): every group has its share by weight, whatever its backlog.
--
-- KEYS: see state. ARGV: not after; id; the new generation; the ticket; wait in us; us between two turns of such a cost (0:
-- as those who were refused before; it has not asked itself);
-- 9 - priority; group; how much this turn counts for its group; when it expires in us (0: never); most tickets;
-- the line; what it waits for; task; task id; us after which a line is looked at again in any case; the
-- publication that is parked.
-- Returns {us until its turn, about (-1: the list is full, and nothing was done); how many are ahead}; the same for a
-- repeated park of one generation.

-- include: not_after
-- include: state
local id, generation, wait, every = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5]), tonumber(ARGV[6])
local joining = every == 0
if joining then
  every = tonumber(redis.call('HGET', line, 'every') or 50000)
end
local known = redis.call('HMGET', record, 'generation', 'since', 'score', 'line', 'publication')

local function answer()
  local ahead = redis.call('ZRANK', waiting, id) or 0
  local turn = math.max(now_us, tonumber(redis.call('HGET', line, 'turn') or 0))
  return { us(turn + ahead * every - now_us), ahead }
end

-- Parked already; or published again since this one entered, and another one has entered by that.
if tonumber(known[1] or -1) >= generation or (known[5] or '') ~= '' and known[5] ~= ARGV[17] then
  return answer()
end
local before = info_of(id) -- it is there still
if not before and redis.call('HLEN', tickets) >= tonumber(ARGV[11]) then
  return { '-1', 0 }
end
local score = known[4] == ARGV[12] and known[3] -- who comes back to a line keeps his place
if not score then
  local base, member = ARGV[7] * 2 ^ 48, ARGV[7] .. ARGV[8]
  -- Below 2^20 there is place for those who are moved before all others.
  local served = math.max(base + 2 ^ 20, tonumber(redis.call('HGET', line, 'v' .. ARGV[7]) or 0))
  local start = math.max(served, tonumber(redis.call('ZSCORE', tags, member) or 0))
  score = us(start)
  -- From 2^48 on there are those of the next priority.
  redis.call('ZADD', tags, us(math.min(start + ARGV[9], base + 2 ^ 48 - 1)), member)
  redis.call('ZREMRANGEBYSCORE', tags, us(base), us(served))
end
local last = redis.call('HMGET', line, 'turn', 'pace')
local turn = math.max(tonumber(last[1] or 0), now_us + wait)
redis.call('HSET', line, 'turn', us(turn), 'every', us(every))
if redis.call('ZCARD', waiting) == 0 then
  redis.call('HSET', line, 'pace', us(math.max(tonumber(last[2] or 0), turn)))
  if redis.call('ZCARD', flights) == 0 then
    redis.call('HDEL', line, 'returned') -- another backlog: how long the queue is now, nobody knows yet
  end
end
local since = known[2] or us(now_us)
redis.call('HSET', record, 'generation', generation, 'publication', '', 'since', since, 'score', score, 'line', ARGV[12])
redis.call('HSET', tickets, id, ARGV[4])
note(id, { line = ARGV[12], generation = generation, since = since, expires = ARGV[10], score = score, every = every,
  sent = 0, at = 0, cancelled = before and before.cancelled or 0, task = ARGV[14], task_id = ARGV[15] })
redis.call('HSET', ids, ARGV[15], id)
redis.call('ZREM', out, id)
redis.call('HDEL', quarantine, id)
local cancelled = before and before.cancelled == '1'
if cancelled or ARGV[10] ~= '0' then
  redis.call('ZADD', expiring, cancelled and '0' or ARGV[10], id)
end
redis.call('ZADD', waiting, score, id)
redis.call(joining and 'HSETNX' or 'HSET', lines, ARGV[12], ARGV[13])
redis.call('ZADD', due, 'LT', us(now_us + math.min(wait, tonumber(ARGV[16]))), ARGV[12])
keep_all()
for _, key in ipairs({ line, waiting, tags, record }) do
  redis.call('PEXPIRE', key, LIFE)
end
return answer()
