-- Ask a job to stop. Asking twice is asking once.
-- KEYS[1] the record
-- returns 1 asked | 0 there is no job to stop
local fence, ended = unpack(redis.call('HMGET', KEYS[1], 'fence', 'ended'))
if not fence or ended then
  return 0
end
if redis.call('HSETNX', KEYS[1], 'cancel', 1) == 1 then
  redis.call('HINCRBY', KEYS[1], 'version', 1)
end
return 1
