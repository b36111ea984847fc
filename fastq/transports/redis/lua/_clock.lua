-- The server's clock, Unix us and ms. No other clock decides when something is due.
local function clock_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function clock()
  return math.floor(clock_us() / 1000)
end
