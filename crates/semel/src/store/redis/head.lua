-- What the scripts share: the time, and how a value is read and written.
--
-- A value is its head, the whole record, and what is left of the record once its content is past its time. The head is
-- 's1', stamp (18 bytes), written, retention and trims (8 each), phase (1), length of the whole record (4), and 8
-- characters of its own digest, so that damage is told from "past its retention"; records bring their own. All times are milliseconds below 2^53.

local HEAD = 57

local function server_now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function check(fields)
  return string.sub(redis.sha1hex(fields), 1, 8)
end

-- The head of the value at `key`; nil where there is none, false where it is damaged.
local function head_at(key)
  local bytes = redis.call('GETRANGE', key, 0, HEAD - 1)
  if bytes == '' then
    return nil
  end
  local fields = string.sub(bytes, 1, HEAD - 8)
  if #bytes ~= HEAD or string.sub(bytes, 1, 2) ~= 's1' or string.sub(bytes, HEAD - 7) ~= check(fields) then
    return false
  end
  local written, retention, trims, phase, whole = struct.unpack('>I8I8I8BI4', fields, 21)
  return { stamp = string.sub(bytes, 3, 20), written = written, retention = retention, trims = trims,
    phase = phase, whole = whole }
end

local function damaged()
  return redis.error_reply('CORRUPT the head of the value is damaged')
end

local function head_of(stamp, written, retention, trims, phase, whole)
  local fields = 's1' .. stamp .. struct.pack('>I8I8I8BI4', written, retention, trims, phase, whole)
  return fields .. check(fields)
end
