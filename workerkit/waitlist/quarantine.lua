-- Keep a ticket that cannot be published, and publish it no more.
--
-- KEYS: see state. ARGV: not after; id; why.
-- Returns 1 when it is news.

-- include: not_after
-- include: state
local id = ARGV[2]
if redis.call('HEXISTS', tickets, id) == 0 then
  return 0
end
redis.call('ZREM', out, id)
redis.call('ZREM', expiring, id)
redis.call('ZREM', waiting, id)
redis.call('ZREM', flights, id)
local news = redis.call('HSET', quarantine, id, ARGV[3])
if news == 1 then
  keep_all()
end
return news
