-- Ask a job to stop. Asking twice is asking once.
-- KEYS[1] the record   KEYS[2] its events
-- returns 1 asked | 0 there is no job to stop
-- include: now
-- include: event
local fence, ended, expires = unpack(redis.call('HMGET', KEYS[1], 'fence', 'ended', 'expires'))
if not fence or ended then
  return 0
end
if redis.call('HSETNX', KEYS[1], 'cancel', 1) == 1 then
  redis.call('HINCRBY', KEYS[1], 'version', 1)
  event('cancelling')
  live(redis.call('PTTL', KEYS[1]), expires)
end
return 1
