-- Put parked messages of resuming task names back at the heads of their levels: one bounded step in a held queue, the newest first, so
-- that the oldest ends at the head. With the last one the queue is held no longer; with the last queue nothing is resuming any more.
--
-- KEYS  1 paused, 2 delayed, 3 idle, 4 leases, 5 levels, 6 to 15 ready lists of levels 0 to 9
-- ARGV  1 prefix of the wake channels, 2 field of this queue in paused while it is held, 3 most messages that are looked at
-- Returns  1 if there is more to do, here or in another queue, else 0
--
-- Two actors in the middle of it, a client and a node: where the next step begins stands in paused, so each goes on where the other
-- was. A name that is paused again meanwhile is not resuming any more: what is parked of it stays.
-- DEL is the first write: it is allowed when Redis is out of memory.
-- include: push
-- include: heads
-- include: mark
local paused, delayed, held, READY = KEYS[1], KEYS[2], ARGV[2], 6
local queue = string.sub(held, 3)
local below = redis.call('HGET', paused, held)
local mine, resuming, others, rest = {}, {}, 0, 0
for _, field in ipairs(redis.call('HKEYS', paused)) do
  local kind = string.sub(field, 1, 2)
  if kind == 'r:' then
    resuming[#resuming + 1] = field
    mine[mark(string.sub(field, 3))] = true
  elseif kind == 'h:' and field ~= held then
    others = others + 1
  elseif kind == 'q:' or kind == 't:' then
    rest = rest + 1
  end
end
if not below then
  return others > 0 and 1 or 0
end
local found = {}
if #resuming > 0 then
  found = redis.call('ZREVRANGEBYSCORE', delayed, below, '9000000000000000', 'WITHSCORES', 'LIMIT', 0, ARGV[3])
end
for level = 0, 9 do
  redis.call('LLEN', KEYS[READY + level])
end
redis.call('SCARD', KEYS[5])
local takers = redis.call('ZRANGEBYSCORE', KEYS[4], '(0', '+inf')
-- Nobody waits here: whatever came meanwhile would wake them for nothing.
redis.call('DEL', KEYS[3])
local back = {}
for i = 1, #found, 2 do
  local member = found[i]
  local first = 3 + string.byte(member, 2)
  if mine[string.sub(member, first - 16, first - 1)] then
    redis.call('ZREM', delayed, member)
    to_head(back, string.sub(member, 1, 1), string.sub(member, first))
  end
end
heads(back, READY, KEYS[5])
if #found == 2 * tonumber(ARGV[3]) then
  redis.call('HSET', paused, held, '(' .. found[#found])
  return 1
end
redis.call('HDEL', paused, held)
local newest = redis.call('ZRANGE', delayed, -1, -1, 'WITHSCORES')[2]
if tonumber(newest or 0) < 9e15 then
  redis.call('HDEL', paused, 'p:' .. queue)
end
if redis.call('HEXISTS', paused, 'q:' .. queue) == 0 then
  for _, process in ipairs(takers) do
    redis.call('PUBLISH', ARGV[1] .. process, 'w')
  end
end
if others > 0 then
  return 1
end
if rest == 0 then
  redis.call('DEL', paused)
elseif #resuming > 0 then
  redis.call('HDEL', paused, unpack(resuming))
end
return 0
