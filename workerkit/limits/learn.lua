-- Takes in what the called API said: a pause for all, what it has left, a rate that is lower than ours. Only tightens.
-- KEYS, ARGV: see request. Its owner is JSON: pause in us, whether a call was refused, and of each unit what is left,
-- for how long in us, and the share of our rate that it grants, in 1/1000.
-- Returns 1 when it paused, or brought a rate down.

-- include: not_after
-- include: request
-- include: algorithm
-- include: store
local FORGOTTEN = 3600000000 -- an hour without a refusal, and the whole rate is tried again
local said, news = cjson.decode(owner), 0
for _, w in ipairs(rates) do
  room(w)
end

local function bring_down(unit, scale)
  scale = math.max(100, scale)
  if scale <= unit.scale then -- what is above must not keep what is below from being forgotten
    news = scale < unit.scale and 1 or news
    unit.scale, unit.scaled = scale, now_us + FORGOTTEN
  end
end

local empty = false
for _, each in ipairs(said.budgets) do
  if costs[each.unit] then
    local unit = unit_of(each.unit)
    if each.left then
      local left = math.max(0, math.min(each.left, 2 ^ 53) - unit.held)
      local till = now_us + math.min(each.reset, FORGOTTEN)
      -- Answers overtake each other, and an API may have several windows: the lowest counts, for as long as it lasts.
      if unit.till > now_us and till <= unit.till + 1000000 and left >= unit.left then
        left, till = unit.left, unit.till
      end
      unit.left, unit.till = left, till
    end
    if each.share and not configured.rates then
      bring_down(unit, each.share)
    end
    each.guilty = each.left == 0
    empty = empty or each.guilty
  end
end
-- One step for one pause: all that were under way are refused together.
if said.refused and not stored[2] and not configured.rates then
  for _, each in ipairs(said.budgets) do
    if costs[each.unit] and (each.guilty or not empty) then
      bring_down(unit_of(each.unit), math.floor(unit_of(each.unit).scale * 7 / 10))
    end
  end
end
local pause = math.ceil(math.min(said.pause, FORGOTTEN) / 1000)
if pause > 0 and redis.call('PTTL', KEYS[2]) < pause then
  redis.call('SET', KEYS[2], '', 'PX', pause)
  news = 1
end
if #rates > 0 then
  store()
end
return news
