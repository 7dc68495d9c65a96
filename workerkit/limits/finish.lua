-- Ends a slot: its lease is given up, and what it really used is settled against what it was charged.
-- KEYS, ARGV: see request. What to do: 1 settle a charge, 2 turn what was held into a charge of now; the costs are what
-- was charged; the script takes "burst", the server time of the charge and each rate's real cost.
-- Returns 1, or 0 when the lease had run out (what was held has been counted at its estimate then).

-- include: not_after
-- include: request
-- include: algorithm
-- include: store
local exact, stamp = ARGV[2] == '2', tonumber(string.match(ARGV[7], '^%d+ (%d+)'))
local ends = tonumber(redis.call('ZSCORE', KEYS[4], owner) or 0)
-- What was held is counted for a period after its lease, and then forgotten, whether somebody has seen that or not.
local held_on = ends > (exact and now_us - longest or 0)
redis.call('ZREM', KEYS[4], owner)
if exact and not held_on and not gone then
  return 0
end

local real, each, i = {}, string.gmatch(string.match(ARGV[7], '^%d+ %d+ (.*)'), '%d+'), 0
for unit in string.gmatch(ARGV[6], '([^,]*),') do
  real[unit] = tonumber(each())
end
if exact and held_on then
  hold(held_by(owner), -1)
end
for _, w in ipairs(rates) do
  local used = real[w.unit] or w.cost
  room(w)
  if exact and held_on and used > 0 then
    charge(w, used)
  elseif not exact and used > w.cost then
    charge(w, used - w.cost)
  elseif not exact and used < w.cost then
    refund(w, stamp, w.cost - used)
  end
end
if #rates > 0 then
  store()
end
return held_on and 1 or 0
