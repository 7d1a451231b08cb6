"""A program with SQLAlchemy as one writes it: a model, a session, a transaction."""

from sqlalchemy import Column, Integer, String, create_engine, func, select, text
from sqlalchemy.orm import Session, declarative_base

Base = declarative_base()


class Draft(Base):
    __tablename__ = "drafts"
    __table_args__ = {"prefixes": ["TEMPORARY"]}
    id = Column(Integer, primary_key=True)
    note = Column(String)


engine = create_engine("postgresql+psycopg2://", future=True)
with engine.connect() as connection:
    Base.metadata.create_all(connection)
    connection.commit()
    with Session(connection) as session:
        session.add_all([Draft(note=f"note {number}") for number in range(10)])
        session.commit()
        assert session.execute(select(func.count(Draft.id))).scalar_one() == 10
        session.execute(text("UPDATE drafts SET note = :note WHERE id = 1"), {"note": "changed"})
        session.rollback()
        assert session.execute(select(Draft.note).where(Draft.id == 1)).scalar_one() == "note 0"
    print(connection.execute(text("SELECT current_user")).scalar_one())
