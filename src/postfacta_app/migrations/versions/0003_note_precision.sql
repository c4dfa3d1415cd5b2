alter table annotations
  add column if not exists precision text
    check (precision in ('day','hour','minute','second','exact'))
