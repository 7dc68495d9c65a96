-- Begin an attempt of a job under a new fence; the same token again gets the same fence and changes nothing.
-- KEYS[1] the record   KEYS[2] its events
-- ARGV[1] not after   ARGV[2] the attempt's token   ARGV[3] ttl in ms   ARGV[4] max_age in ms   ARGV[5] the model's name
-- ARGV[6] '1': a failed job may be begun again   ARGV[7] RUNNING, or SUCCESS to end it at once for a cached result
-- ARGV[8] how many attempts may end without a word and without getting any further, before the job is poisoned; 0: any
-- ARGV[9] how many pairs follow that say what the job is; the pairs after them are fields, set only where absent
-- returns {'OK', now, {name, value, ...}} | {'FENCED'} | {'FINISHED', status} | {'MODEL', name}
-- include: not_after
-- include: event
local key = KEYS[1]
local model, status, ended, tokens, expires, crashes =
  unpack(redis.call('HMGET', key, 'model', 'status', 'ended', 'tokens', 'expires', 'crashes'))
local at = nil
if model then
  if model ~= ARGV[5] then
    return {'MODEL', model}
  end
  at = string.find(tokens, ARGV[2], 1, true)
  if at and at > 1 then
    return {'FENCED'}
  end
  if ended and not at and not (status == 'FAILURE' and ARGV[6] == '1') then
    return {'FINISHED', status}
  end
end
if not at then
  local now = string.format('%.0f', now_us)
  local ending = ARGV[7] ~= 'RUNNING'
  if model then
    if status == 'RUNNING' and not ending then
      crashes = redis.call('HINCRBY', key, 'crashes', 1)
      if ARGV[8] ~= '0' and crashes >= tonumber(ARGV[8]) then
        redis.call('HINCRBY', key, 'fence', 1)
        redis.call('HINCRBY', key, 'version', 1)
        redis.call('HSET', key, 'status', 'POISONED', 'ended', now, 'error', 'JobPoisoned',
          'reason', crashes .. ' attempts ended without a word')
        redis.call('HDEL', key, 'trace')
        event('ended', { 'status', 'POISONED', 'error', 'JobPoisoned' })
        live(ARGV[3], expires)
        return { 'FINISHED', 'POISONED' }
      end
    end
    redis.call('HINCRBY', key, 'fence', 1)
    redis.call('HDEL', key, 'ended')
  else
    -- The first fence is the time: it is above every fence of a record of this id that has expired or was lost.
    expires = now_us + ARGV[4] * 1000
    redis.call('HSET', key, 'fence', now, 'created', now, 'expires', string.format('%.0f', expires), 'batch', 0)
  end
  redis.call('HINCRBY', key, 'attempt', 1)
  redis.call('HINCRBY', key, 'version', 1)
  -- The last 8 tokens: who begins late, after a newer attempt, must not fence that one.
  redis.call('HSET', key, 'status', ARGV[7], 'tokens', string.sub(ARGV[2] .. ' ' .. (tokens or ''), 1, 8 * #ARGV[2] + 8),
    'heartbeat', now, 'started', now, 'model', ARGV[5])
  if ending then
    redis.call('HSET', key, 'ended', now, 'cached', 1)
    redis.call('HDEL', key, 'error', 'reason', 'trace')
  end
  local about = 9 + 2 * ARGV[9]
  for i = 10, #ARGV, 2 do
    redis.call(i <= about and 'HSET' or 'HSETNX', key, ARGV[i], ARGV[i + 1])
  end
  -- Who goes on where another stopped is measured anew.
  local done = redis.call('HGET', key, 'done')
  redis.call('HSET', key, 'rated', now, 'rated_done', done or 0)
  redis.call('HDEL', key, 'rate')
  event(ending and 'ended' or 'began', { 'status', ARGV[7], 'attempt', redis.call('HGET', key, 'attempt') })
  live(ARGV[3], expires)
end
return {'OK', now_us, redis.call('HGETALL', key)}
