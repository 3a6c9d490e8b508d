"""Who and what features are about: driver, constructor, circuit, race.

One join key an entity; a composite key is a view with two entities (`entities=[race, driver]`).
"""

from feast import Entity, ValueType

race = Entity(
    name="race",
    join_keys=["race_id"],
    value_type=ValueType.STRING,
    description="One Grand Prix, <season>_<round> such as 2024_08.",
)
driver = Entity(
    name="driver",
    join_keys=["driver_id"],
    value_type=ValueType.STRING,
    description="One driver, Ergast/Jolpica reference such as max_verstappen.",
)
constructor = Entity(
    name="constructor",
    join_keys=["constructor_id"],
    value_type=ValueType.STRING,
    description="One constructor, Ergast/Jolpica reference such as red_bull; a renamed team is a new constructor.",
)
circuit = Entity(
    name="circuit",
    join_keys=["circuit_id"],
    value_type=ValueType.STRING,
    description="One circuit, Ergast/Jolpica reference such as monaco; layouts of a circuit share the id.",
)
