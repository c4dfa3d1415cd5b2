from tests.app.live import in_process
import pytest
@pytest.fixture
def anyio_backend(): return "asyncio"
async def test_x(app_database_dsn):
    async with in_process(app_database_dsn) as s:
        for h in ({"Authorization":"Basic x"},{"Authorization":"Bearer "+"x"*43}):
            r=await s.client.get("/signin",headers=h); print(r.status_code, r.headers, r.text[:300])
    assert 0
