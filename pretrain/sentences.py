"""Evaluation sentences written for this project: none of them is in the encoder's training data."""

PROBE_SENTENCES = tuple(  # training set of the probes
    """
    The old bridge creaked whenever a heavy cart rolled over it.
    She measured the flour twice before mixing the dough.
    Yellow leaves were falling on the church roof all day.
    A young fox watched the chickens through the fence.
    They usually choose the shorter path along the river.
    His voice was hoarse after shouting at the match.
    Nothing in the cupboard looked good enough to eat.
    The judge asked for silence and put away her glasses.
    We enjoyed the view from the tower above the bay.
    Five boys pushed the broken machine up the hill.
    My uncle grows sugar beets and sells them in town.
    The pleasure of reading never left the blind teacher.
    Put the blue jar on the shelf beside the clock.
    It was a vague plan, but the engineers liked it.
    Cold water dripped from the ceiling onto my neck.
    The author wrote each chapter on thin brown paper.
    Both thieves ran out through the garage window.
    You should have seen the huge fish that George caught.
    Her mother taught music in a village near the border.
    The doctor gave the patient eight drops of the syrup.
    Our ship sailed past the lighthouse an hour too late.
    That beige carpet never matched the rest of the room.
    Why would anybody leave such a nice hotel at dawn?
    The poor goat was stuck between two enormous stones.
    A loud noise woke the baby and frightened the dogs.
    Three women were weaving baskets under the palm tree.
    He took the last piece of cake without asking.
    The captain's charts show a passage through the ice.
    I would rather walk than wait for another bus.
    Smooth wooden toys were hanging from a wire.
    The king refused to wear a crown at his own wedding.
    Please close the gate behind you when you go.
    Television pictures used to be grey and fuzzy.
    Half of the apples had already been eaten by wasps.
    The choir sang a cheerful tune about the ocean.
    Nobody knew how deep the hole in the garden was.
    Thick fog covered the airport until Thursday evening.
    Both girls laughed when the puppet fell off its chair.
    Give the visitor a towel and show him the bathroom.
    The usual treasure hunt was cancelled because of rain.
    """.strip().splitlines()
)
TEST_SENTENCES = tuple(  # test set of the probes
    """
    The farmer fed his oxen before the sun came up.
    A small leisure boat drifted toward the southern shore.
    Jane bought seven yards of cotton for a summer dress.
    The engine coughed, shook twice and finally stopped.
    Children threw pebbles into the pond behind the school.
    This road leads to a valley full of cherry orchards.
    The prince could neither ride nor shoot an arrow.
    We found an oily rag under the kitchen stove.
    Thirty monks were chanting in the dusty hall.
    Who would have thought that glue could be so strong?
    The tourist paid a fair price for the copper vase.
    Her vision improved after the second operation.
    Wash both hands with soap and warm water.
    A cloud of smoke rose slowly from the hut.
    The jury thought about the case for nine days.
    Bring me the long rope and a pair of gloves.
    The nurse put a fresh bandage around his ankle.
    Snow is rare in that part of the country.
    My cousin has a job at the zoo feeding giraffes.
    He could hear the gentle rhythm of the waves.
    """.strip().splitlines()
)
PROBE_SENTENCES, TEST_SENTENCES = (
    tuple(line.strip() for line in lines) for lines in (PROBE_SENTENCES, TEST_SENTENCES)
)
