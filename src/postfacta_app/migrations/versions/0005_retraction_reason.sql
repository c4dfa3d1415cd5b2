-- Why a note was retracted.
alter table annotations add column if not exists reason text
