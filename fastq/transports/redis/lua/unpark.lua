-- Put parked messages back at the head of their levels: one bounded step.
--
-- KEYS  1 delayed, 2 idle, 3 levels, 4 to 13 ready lists of levels 0 to 9
-- ARGV  1 prefix of the wake channels, 2.. members of delayed, the newest first
-- Returns  how many were there
--
-- ZREM is the first write: it is allowed when Redis is out of memory.
-- include: push
-- include: heads
-- include: baton
local delayed, READY = KEYS[1], 4
for level = 0, 9 do
  redis.call('LLEN', KEYS[READY + level])
end
redis.call('SCARD', KEYS[3])
redis.call('ZCARD', KEYS[2])
local moved, back = 0, {}
for i = 2, #ARGV do
  local member = ARGV[i]
  if redis.call('ZREM', delayed, member) == 1 then
    local level = string.byte(member, 1) - 48
    back[level] = back[level] or {}
    table.insert(back[level], string.sub(member, 3 + string.byte(member, 2)))
    moved = moved + 1
  end
end
heads(back, READY, KEYS[3])
if moved > 0 then
  baton(KEYS[2], ARGV[1], KEYS[3], READY)
end
return moved
