-- Decides all rates of one limiter key, its cap and its pause in one go. Every rate is checked before anything is
-- written, and a refusal writes nothing; only a server clock that was set back must be written down whatever the answer,
-- or waiting would never help.
--
-- KEYS, ARGV: see request. What to do: 0 look, 1 take, 2 take and hold until answered; gcra takes "burst patience". A look
-- has no owner; it may say there how many us ahead of now it is to be.
-- Returns allowed, remaining, wait in us (when allowed: until the call's own time), us until all is free again, what
-- refused (n: the nth rate, or its text where it was configured; 0: the cap, -1: the pause, -2: what the API said is
-- left, -3: a cost above the rate that follows the time), server time in us; after a look also what is used.

-- include: not_after
if ARGV[2] == '0' and ARGV[5] ~= '' then
  now_us = now_us + tonumber(ARGV[5])
end
-- include: request
-- include: algorithm
-- include: store
local taking, exact = ARGV[2] ~= '0', ARGV[2] == '2'

local wait, bound, unanswered = 0, 0, nil
local function hold_up(needed, by)
  if needed > wait then
    wait, bound = needed, by
  end
end
for i, w in ipairs(rates) do
  if w.cost > w.limit then
    return { 0, 0, 0, 0, -3, now_us, w.text or i }
  end
  local needed = room(w)
  hold_up(needed or 0, w.text or i)
  unanswered = unanswered or not needed and (w.text or i)
end
local delay = 0
if patience and wait <= patience then
  delay, wait = wait, 0
end
for i, w in ipairs(rates) do
  local known = w.known
  if known and known.till > now_us and w.cost > known.left then
    hold_up(known.till - now_us, -2)
  end
end
local paused = stored[2] and redis.call('PTTL', KEYS[2]) or 0
if stored[2] then
  hold_up((paused + 1) * 1000, -1)
end
if unanswered and wait == 0 then
  bound = unanswered
end
local taken, full, again = 0, false, false
if cap > 0 then
  taken = redis.call('ZCOUNT', KEYS[4], string.format('(%.0f', now_us), '+inf')
end
if exact or cap > 0 and taken >= cap then
  local ends = tonumber(redis.call('ZSCORE', KEYS[4], owner) or 0)
  full, again = cap > 0 and taken >= cap and ends <= now_us, exact and ends > now_us
end
local allowed = again or wait == 0 and not unanswered and not full

if allowed and taking and not again then
  if exact and not holding then
    -- A reset or a loss has forgotten what others hold still; as they will take it out of the sums, it is put in again.
    for _, other in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], string.format('(%.0f', now_us - longest), '+inf')) do
      hold(held_by(other), 1)
    end
  end
  if exact then
    hold(held_by(owner), 1)
  end
  local charged = {}
  for _, w in ipairs(rates) do
    if not exact then
      charge(w, w.cost, delay)
    end
    local unit = units[w.unit]
    if unit and not charged[unit] then
      charged[unit] = true
      unit.left = math.max(0, unit.left - w.cost)
    end
    w.known = unit
  end
end
if taking and (allowed or moved) and #rates > 0 and not again then
  store()
end
if taking and allowed and (cap > 0 or exact) then
  local counted = (holding or exact) and longest or 0
  redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now_us - counted)
  redis.call('ZADD', KEYS[4], now_us + lease, owner)
  -- Four leases long: a process whose definition says a longer lease may hold one in the same set.
  redis.call('PEXPIRE', KEYS[4], math.ceil((lease * 4 + counted) / 1000))
elseif taking and (full or unanswered) then
  -- No lease ends later than now + lease unless the clock was set back: then the dead would hold on for that long.
  for _, held in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], string.format('(%.0f', now_us + lease), '+inf')) do
    redis.call('ZADD', KEYS[4], now_us + lease, held)
  end
end

local remaining, reset = nil, 0
for _, w in ipairs(rates) do
  remaining, reset = math.min(remaining or w.limit, left(w)), math.max(reset, resets(w))
  local told = units[w.unit]
  if told and told.till > now_us then
    remaining = math.min(remaining, told.left)
  end
end
remaining = remaining or cap - taken - (taking and allowed and 1 or 0)
local reply = { allowed and 1 or 0, math.max(0, remaining), allowed and delay or wait, reset, bound, now_us }
if not taking then
  reply[7] = { stored[3] and 1 or 0, cap, taken, math.max(0, paused) }
  for i, w in ipairs(rates) do
    local known = w.known or unit_of(w.unit)
    reply[7 + i] = { w.text or i, w.limit, math.max(0, left(w)), resets(w), held(w), known.scale,
      known.till > now_us and known.left or -1, math.max(0, known.till - now_us), w.cost }
  end
end
return reply
