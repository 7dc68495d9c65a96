-- End a run, or keep its claim alive.
-- KEYS[1] the last tick done   KEYS[2] the run under way
-- ARGV[1] the claimer's token   ARGV[2] the tick; -1 keeps the claim   ARGV[3] life in ms of what is written
-- returns 1 it still held the claim | 0 it did not
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
if ARGV[2] == '-1' then
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  redis.call('DEL', KEYS[2])
end
return 1
