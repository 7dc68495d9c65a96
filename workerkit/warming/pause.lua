-- Pause a warmup, or let it go on.
-- KEYS[1] how it stands   ARGV[1] '1': pause   ARGV[2] life in ms of what is written
-- returns 1 | 0 it was so already
local changed
if ARGV[1] == '1' then
  changed = redis.call('HSETNX', KEYS[1], 'paused', 1)
else
  changed = redis.call('HDEL', KEYS[1], 'paused')
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return changed
