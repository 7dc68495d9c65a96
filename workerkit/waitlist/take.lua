-- Take one ticket out of its turn: because it has expired or was cancelled, because nobody has entered by it in time, or
-- because somebody wants it gone.
--
-- KEYS: see state. ARGV: not after; id; how often a ticket is published before it goes to quarantine; 1 to take it
-- whether it is overdue or not.
-- Returns nil when there is nothing to take (another pump was faster), else {ticket or '' when it went to quarantine,
-- 1 when it was cancelled}.

-- include: not_after
-- include: state
local id = ARGV[2]
local i, ticket = info_of(id), redis.call('HGET', tickets, id)
-- One in quarantine may stand there still, if it was put there by an old message, of another line.
if not i or not ticket or redis.call('HEXISTS', quarantine, id) == 1 then
  redis.call('ZREM', out, id)
  redis.call('ZREM', expiring, id)
  redis.call('ZREM', waiting, id)
  return nil
end
local expires, again = redis.call('ZSCORE', expiring, id), redis.call('ZSCORE', out, id)
local ended, unentered = expires and tonumber(expires) <= now_us, again and tonumber(again) <= now_us
if not (ended or unentered or ARGV[4] == '1') then
  return nil
end
redis.call('ZREM', waiting, id)
if ended then
  redis.call('ZREM', expiring, id) -- from here on `out` has it published until a worker has ended it
end
if i.sent >= tonumber(ARGV[3]) then
  redis.call('ZREM', out, id)
  redis.call('ZREM', expiring, id)
  redis.call('HSET', quarantine, id, 'published ' .. i.sent .. ' times, and no worker has begun it')
  keep_all()
  return { '', 0 }
end
-- Whoever had entered by another publication, and was not let go on since, may no more.
if redis.call('EXISTS', record) == 1 then
  redis.call('HSET', record, 'publication', '')
end
published(id, i, tonumber(redis.call('HGET', line, 'lag') or 0))
keep_all()
return { ticket, tonumber(i.cancelled) }
