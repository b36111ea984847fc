-- Remember revoked tasks.
--
-- KEYS  1 revoked
-- ARGV  1 how long they are remembered (s), 2 how many at most, 3.. their ids
-- Returns  the number of this revocation: the server's clock (ms), or one more than the last number where that is not lower
--
-- The score of an id is the number of its revocation, so the newest ones are found by it, and the highest is the last number.
-- ZREMRANGEBYSCORE is the first write: it is allowed when Redis is out of memory.
-- include: clock
local key, expires, most = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local now = clock()
local newest = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
local number = math.max(now, tonumber(newest[2] or 0) + 1)
redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now - expires * 1000))
local score = string.format('%.0f', number)
for from = 3, #ARGV, 1000 do
  local words = {}
  for i = from, math.min(from + 999, #ARGV) do
    words[#words + 1] = score
    words[#words + 1] = ARGV[i]
  end
  redis.call('ZADD', key, unpack(words))
end
redis.call('ZREMRANGEBYRANK', key, 0, -most - 1)
if redis.call('TTL', key) < expires then
  redis.call('EXPIRE', key, expires)
end
return number
