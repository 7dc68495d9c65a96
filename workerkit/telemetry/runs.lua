-- Note the longest runs of tasks, this week's and the last one's.
-- KEYS[1] name -> "week, longest of it in ms, longest of the week before"
-- ARGV[1] not after   ARGV[2] its life in ms   ARGV[3], ARGV[4], ... name, ms, name, ms
-- returns 1
-- include: not_after
-- include: now
local week = math.floor(now_us / 604800000000)
for i = 3, #ARGV, 2 do
  local top, before = tonumber(ARGV[i + 1]), 0
  local then_, longest, earlier = string.match(redis.call('HGET', KEYS[1], ARGV[i]) or '', '^(%d+) (%d+) (%d+)$')
  if tonumber(then_) == week then
    top, before = math.max(top, tonumber(longest)), tonumber(earlier)
  elseif tonumber(then_) == week - 1 then
    before = tonumber(longest)
  end
  redis.call('HSET', KEYS[1], ARGV[i], string.format('%d %.0f %.0f', week, top, before))
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
