-- Whether this delivery of a throttled task's message may go on, or is a spent duplicate.
--
-- KEYS: see state. ARGV: not after; id; the message's generation; its publication; the record's life in ms; the line;
-- after how many us a publication is late; 1 to keep the ticket until `begin`, or until it is parked again.
-- Returns {0 drop | 1 go on | 2 others wait: join them | 3 it was cancelled | 4 others wait: ask, but do not wait here; us
-- until the line's turn}.

-- include: not_after
-- include: state
local id, generation, publication, late = ARGV[2], tonumber(ARGV[3]), ARGV[4], now_us - tonumber(ARGV[7])
local known = redis.call('HMGET', record, 'generation', 'publication', 'cancelled')
local newest = tonumber(known[1] or -1)
-- The same publication again is a redelivery after a crash; another one of this generation has been superseded.
if generation < newest or generation == newest and known[2] ~= '' and known[2] ~= publication then
  return { 0, 0 }
end
if generation == 0 then
  if redis.call('ZCARD', waiting) == 0 then
    return { 1, 0 }
  end
  -- Whoever comes asks for himself while those who wait are let go by nobody, or their messages lie in a long queue (or
  -- nobody knows yet for how long they will): else what the limit has room for would be used by nobody.
  local look = tonumber(redis.call('ZSCORE', due, ARGV[6]) or 0)
  local seen = redis.call('HMGET', line, 'turn', 'lag', 'returned')
  local quick = seen[3] and tonumber(seen[2]) <= now_us - late
  if look < late or not quick or redis.call('ZCOUNT', flights, us(now_us - 2000000), '(' .. us(late)) > 0 then
    return { 4, 0 }
  end
  return { 2, math.max(0, (seen[1] or 0) - now_us) }
end
local i = info_of(id)
-- Without a ticket, though nobody has entered by it: it was cancelled in quarantine.
local forgotten = not i and generation == newest and known[2] == ''
local cancelled = forgotten or known[3] == '1' or i and i.cancelled == '1'
redis.call('HSET', record, 'generation', generation, 'publication', publication, 'cancelled', cancelled and 1 or 0)
redis.call('PEXPIRE', record, ARGV[5])
if i then
  if i.sent == 1 and redis.call('EXISTS', line) == 1 then
    -- Falls slowly, so that a queue that lags by fits and starts is not flooded with duplicates.
    local lag = math.max(now_us - i.at, (redis.call('HGET', line, 'lag') or 0) * 0.98)
    redis.call('HSET', line, 'lag', us(lag), 'returned', 1)
  end
  if ARGV[8] == '1' and not cancelled then
    -- A worker that dies now leaves the message to its broker alone, and not every broker keeps it.
    i.sent = 0
    note(id, i)
    redis.call('HDEL', quarantine, id)
    redis.call('ZREM', waiting, id)
    redis.call('ZREM', flights, id)
    redis.call('ZADD', out, us(now_us + ENTERED), id)
    keep_all()
  else
    forget(id, i)
  end
end
return { cancelled and 3 or 1, 0 }
