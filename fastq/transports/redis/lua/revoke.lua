-- Remember revoked tasks.
--
-- KEYS  1 revoked, 2 terminated
-- ARGV  1 how long they are remembered (s), 2 how many at most, 3 signal that ends what runs, '': none, 4.. their ids
-- Returns  the number of this revocation: the server's clock (ms), or one more than the last number where that is not lower
--
-- The score of an id is the number of its revocation, so the newest ones are found by it, and the highest is the last number.
-- ZREMRANGEBYSCORE is the first write: it is allowed when Redis is out of memory.
-- include: clock
local expires, most, signal = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local now = clock()
local newest = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
redis.call('ZCARD', KEYS[2])
local number = math.max(now, tonumber(newest[2] or 0) + 1)
local score = string.format('%.0f', number)

local function remember(key, prefix)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now - expires * 1000))
  for from = 4, #ARGV, 1000 do
    local words = {}
    for i = from, math.min(from + 999, #ARGV) do
      words[#words + 1] = score
      words[#words + 1] = prefix .. ARGV[i]
    end
    redis.call('ZADD', key, unpack(words))
  end
  redis.call('ZREMRANGEBYRANK', key, 0, -most - 1)
  if redis.call('TTL', key) < expires then
    redis.call('EXPIRE', key, expires)
  end
end

remember(KEYS[1], '')
if signal ~= '' then
  remember(KEYS[2], signal .. ':')
end
return number
