-- Put deliveries of paused task names aside: among the delayed messages, at a time that never comes. What is not paused any more goes
-- back to the head of its level.
--
-- KEYS  1 leased:<process>, 2 idle, 3 levels, 4 delayed, 5 paused, 6 to 15 ready lists of levels 0 to 9
-- ARGV  1 prefix of the wake channels, 2 nonce (unique to this call), 3 field of this queue in paused once something is parked here,
--       then per delivery: tag, field in paused
-- Returns  {indexes of skipped deliveries, counted from 0}
--
-- Two actors: a worker that has not heard parks a message, while another lifts the pause and puts back what is parked. Scripts come one
-- after the other: this one sees that nothing is paused, or the other one finds the message here.
-- What is parked says whose it is: the nonce ends with the mark of its task name.
-- HDEL is the first write: it is allowed when Redis is out of memory.
-- include: clock
-- include: push
-- include: heads
-- include: baton
-- include: mark
local leased, delayed, READY = KEYS[1], KEYS[4], 6
local total = (#ARGV - 3) / 2
local held, paused, tags = {}, {}, {}
for i = 1, total do
  tags[i] = ARGV[2 + 2 * i]
  held[i] = redis.call('HGET', leased, tags[i])
  paused[i] = redis.call('HEXISTS', KEYS[5], ARGV[3 + 2 * i]) == 1
end
local newest = redis.call('ZRANGE', delayed, -1, -1, 'WITHSCORES')
for level = 0, 9 do
  redis.call('LLEN', KEYS[READY + level])
end
redis.call('SCARD', KEYS[3])
redis.call('ZCARD', KEYS[2])
for from = 1, total, 1000 do
  redis.call('HDEL', leased, unpack(tags, from, math.min(from + 999, total)))
end
-- In their order: no two have the same place.
local place = math.max(9e15 + clock(), tonumber(newest[2] or 0) + 1)
local skipped, back, parked = {}, {}, false
for i = 1, total do
  local level = string.sub(tags[i], 1, 1)
  if not held[i] then
    skipped[#skipped + 1] = i - 1
  elseif paused[i] then
    local nonce = ARGV[2] .. i .. mark(string.sub(ARGV[3 + 2 * i], 3))
    redis.call('ZADD', delayed, string.format('%.0f', place), level .. string.char(#nonce) .. nonce .. held[i])
    place = place + 1
    parked = true
  end
end
for i = total, 1, -1 do
  if held[i] and not paused[i] then
    to_head(back, string.sub(tags[i], 1, 1), held[i])
  end
end
if parked then
  redis.call('HSET', KEYS[5], ARGV[3], 1)
end
heads(back, READY, KEYS[3])
baton(KEYS[2], ARGV[1], KEYS[3], READY)
return skipped
