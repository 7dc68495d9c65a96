-- Note a session as one of its owner's, until its absolute end.
-- KEYS[1] the owner's sessions   ARGV[1] the session's reference   ARGV[2] its absolute end in ms since 1970
-- include: now
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now_us / 1000))
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('PEXPIREAT', KEYS[1], redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2])
