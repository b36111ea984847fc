-- Push ARGV or table items in steps: unpack has a limit of about 8,000.
local function push(command, key, items, first, last)
  local length = 0
  for from = first, last, 1000 do
    length = redis.call(command, key, unpack(items, from, math.min(from + 999, last)))
  end
  return length
end
