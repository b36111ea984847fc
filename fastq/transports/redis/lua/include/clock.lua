-- The server's clock, Unix ms. No other clock decides when something is due.
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
