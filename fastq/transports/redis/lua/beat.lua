-- Keep what a node says of itself, and forget the nodes that have said nothing for too long.
--
-- KEYS  1 nodes, 2 nodes:until, 3 listeners
-- ARGV  1 node, 2 its record, 3 how long it is kept (ms)
-- Returns  the server's clock (ms), 1 if somebody listens to events
--
-- ZREMRANGEBYSCORE comes first: it is allowed when Redis is out of memory, and then so is the rest.
-- include: clock
local nodes, untils, listeners = KEYS[1], KEYS[2], KEYS[3]
local node, expires = ARGV[1], tonumber(ARGV[3])
local now = clock()
local score = string.format('%.0f', now)
local gone = redis.call('ZRANGEBYSCORE', untils, '-inf', score, 'LIMIT', 0, 1000)
redis.call('ZREMRANGEBYSCORE', listeners, '-inf', score)
if #gone > 0 then
  redis.call('ZREM', untils, unpack(gone))
  redis.call('HDEL', nodes, unpack(gone))
end
redis.call('HSET', nodes, node, score .. ':' .. ARGV[2])
redis.call('ZADD', untils, string.format('%.0f', now + expires), node)
for i = 1, 2 do
  if redis.call('PTTL', KEYS[i]) < expires then
    redis.call('PEXPIRE', KEYS[i], expires)
  end
end
return {now, redis.call('EXISTS', listeners)}
