-- What a parked message says of its task name, in 16 characters. Two paused names with the same would come back together.
local function mark(name)
  return string.sub(redis.sha1hex(name), 1, 16)
end
