-- Return what every node says of itself.
--
-- KEYS  1 nodes, 2 nodes:until
-- ARGV  none
-- Returns  the server's clock (ms), the names whose record has not expired, and behind each its record: when (ms), colon, record
-- include: clock
local now = clock()
local found = {now}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. string.format('%.0f', now), '+inf')) do
  local record = redis.call('HGET', KEYS[1], name)
  if record then
    found[#found + 1] = name
    found[#found + 1] = record
  end
end
return found
